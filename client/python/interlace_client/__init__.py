"""Client of an Interlace cluster over gRPC (interlace.v1)."""
from .client import AnotherAnswer, Client, Stream

__all__ = ["AnotherAnswer", "Client", "Stream"]
