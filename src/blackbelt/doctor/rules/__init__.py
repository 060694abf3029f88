"""The rules, one per file, such as `bb301_broadcast.py`. A class of a file here that derives from Rule is found."""
