"""The two-minute demo: the pocket decoder, real prose that every Python ships, the ladder, a report."""
