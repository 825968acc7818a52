"""Codecs of others behind the contract of all codecs (`duotone.codec.contract.Codec`)."""
