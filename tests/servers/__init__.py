"""Private servers for tests: each on a free loopback port, in a temporary folder, stopped by pid."""
