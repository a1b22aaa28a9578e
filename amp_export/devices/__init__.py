"""Bundles for devices, and measuring with them over ssh."""
