"""Target devices, and the machine that this process runs on."""
