"""Makes bundles for devices and measures with them over ssh."""
