"""Export of checkpoints into folders: settings, overflow checks and engines."""
