"""CoDiCodec with the *bands* frontend: magnitudes are estimated explicitly, phases are made from them."""
