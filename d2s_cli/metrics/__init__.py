"""The numbers that restorations are judged by; docs/evaluate.md says what each one means."""
