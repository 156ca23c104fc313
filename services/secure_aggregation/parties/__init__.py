"""The three parties of protocol `mpc3`: each a process of this service, and what they say to each other."""
