"""Lycodec: a hybrid codec of mid/side spectra; the network, its hashes, decoding, loading and saving its weights."""
