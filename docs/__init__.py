"""What users read, and the module that makes some of it from the code."""
