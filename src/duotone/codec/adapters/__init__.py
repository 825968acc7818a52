"""Codecs of others behind one contract: sound in, codes `[K, F]` out, and back."""
