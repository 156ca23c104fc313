"""What cryptographic randomness is drawn from."""

from collections.abc import Callable

# So many bytes, like `os.urandom`; tests put a fixed stream in its place.
RandomBytes = Callable[[int], bytes]
