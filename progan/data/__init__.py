"""Pictures become a pyramid (prepare), the one thing that training reads."""
