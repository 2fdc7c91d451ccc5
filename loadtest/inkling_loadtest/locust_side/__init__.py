"""What runs inside Locust's processes; importing it patches the standard library."""
