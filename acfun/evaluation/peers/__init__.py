"""What acfun is compared with: methods of others, after their authors' recipes, on the base that all share."""
