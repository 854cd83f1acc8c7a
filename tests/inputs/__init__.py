"""What tests are fed with: files, rows and surveys that they write themselves."""
