"""What each release writes for a later one to read, a file for each format: `NAME-FORMAT.json`. They are
never changed once released.
"""
