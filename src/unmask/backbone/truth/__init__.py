"""What a layer can see: conversion, its proof by gradients, and opening a model as it was saved."""
