"""BLAKE2b (RFC 7693), without OpenSSL.

CPython has this function in a module of its own. hashlib has the same one, but loads OpenSSL too, which needs
4 MB of memory.
"""

try:
    from _blake2 import blake2b
except ImportError:  # another implementation of Python
    from hashlib import blake2b

__all__ = ["blake2b"]
