"""What refine_quality.py and quality.py are made of: crops and holes, fills, features, scores."""
