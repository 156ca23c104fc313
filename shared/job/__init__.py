"""What a job is: its specification, and how one is read from YAML."""
