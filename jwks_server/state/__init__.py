"""The state directory: tenants' records, which outlive the process."""
