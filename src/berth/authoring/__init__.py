"""What is a model, and how is it made? From a folder with `xumi.yaml` to a version in the local repository.

manifest · interface · hardware    what `xumi.yaml` may say            (design §6 "Names and versions")
document                           YAML text → plain data with lines and columns
project                            the folder around it: which files are code, which are weights
base · requirements · packing      where layers come from; the same input gives the same bytes
build                              all of it together → an OCI image index (design §1)
repository                         where builds wait until they are pushed
unpack · safe_tar                  the way back: a version → a folder
"""
