"""What fulfils the ports: the only code that talks to brokers, databases, stores and collectors."""
