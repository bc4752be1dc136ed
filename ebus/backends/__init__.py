"""The engines, one a package or module. Each imports core and its own driver, never another."""
