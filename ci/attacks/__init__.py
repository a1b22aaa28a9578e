"""Attacks on the command line: damaged inputs, crashes, bad disks, planted numeric faults, and hostile files."""
