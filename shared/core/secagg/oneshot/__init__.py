"""The protocol `oneshot`, pure: additive RLWE encryption whose sum a committee opens; clients speak once."""
