"""What does OCI say? Pure values and rules of the image, distribution and layout specifications.

Standard library only, no I/O except `layout` (a directory on disk). Everything a stranger sent is checked here,
once, and then travels as frozen values; whatever breaks a rule raises a member of `berth.errors`.
"""
