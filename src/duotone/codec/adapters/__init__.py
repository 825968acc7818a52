"""Codecs of other projects as a `duotone.codec.contract.Codec`."""
