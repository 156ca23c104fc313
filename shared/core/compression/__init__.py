"""Fewer values an upload. Fewer bits a value: `shared.core.secagg.encoding`."""

from shared.core.compression.random_k import RandomK, compress, coordinates, expand

__all__ = ["RandomK", "compress", "coordinates", "expand"]
