"""What acfun is compared with: methods of others, each as its authors do it, on the base that all share."""
