"""What runs on the device. A bundle carries this folder; nothing else of amp-export is there.

The modules import the standard library, numpy, and the device's own `tensorrt` or `onnxruntime`, and each other by
relative paths, because the folder is a package by itself there. They run on Python 3.8, the oldest that TensorRT 10 has
bindings for and the one of JetPack 5.
"""
