"""When: dispatchers claim what is due, stage and release it, and look again at whatever may have been lost."""
