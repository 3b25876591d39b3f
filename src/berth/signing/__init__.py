"""What is a signature? The formats that registries carry, and the one function that checks them all.

Pure: bytes in, frozen outcomes out; no network, no clock, no database. `keys` holds the only cryptography of keys,
`notation_chain` that of certificates; the rest are formats on top of `berth.oci`.
"""
