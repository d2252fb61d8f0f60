"""Encoding files of texts into files of vectors."""
