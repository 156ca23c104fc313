"""A client's own records: read, checked and tokenised; nothing of them leaves this machine."""

from services.client.data.cache import TokenCache
from services.client.data.reading import Record, read_column, read_records
from services.client.data.tokens import TokenRecord, tokenise

__all__ = ["Record", "TokenCache", "TokenRecord", "read_column", "read_records", "tokenise"]
