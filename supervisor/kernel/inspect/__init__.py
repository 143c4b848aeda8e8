"""Single looks at the kernel, for `facilitator why` and `doctor`."""
