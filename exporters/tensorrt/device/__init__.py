"""Scripts that run on the device. A bundle contains this folder and no other part of amp-export.

The modules import only the standard library, numpy, the device's own `tensorrt` or `onnxruntime`, and each other by
relative imports, because the folder is a top-level package there. They run on Python 3.8, the oldest version that
TensorRT 10 has bindings for, and the version of JetPack 5.
"""
