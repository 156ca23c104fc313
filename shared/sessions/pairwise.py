"""The stages of `secagg`, by the names that messages carry."""

# What a client says, in this order; between the second and the third it uploads.
KEYS, SEALED_SHARES, ENDORSEMENT, UNMASKING = "keys", "sealed-shares", "endorsement", "unmasking"
# What a client is told when keys, sealed shares, uploads and endorsements are there.
NEIGHBOURS, ROSTER, SURVIVORS, ENDORSEMENTS = "neighbours", "roster", "survivors", "endorsements"
