"""What follows an accepted verdict: promotion, pull request, the field's own folder."""
