"""Choice of how each weight of a decoder is quantized, by what its rounding costs."""
