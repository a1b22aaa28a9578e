"""Target devices, and the machine that runs this process."""
