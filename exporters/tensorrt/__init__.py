"""Models as TensorRT engines, and the bundles from which a device builds its own."""
