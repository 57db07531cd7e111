"""Data sets that are folders of files, in the layouts that the papers' codes read.

files      one sample's files: PNG, JPEG, npy, mat
views      which part of a picture is seen, how large, mirrored or not; images and labels under a view
pixels     bytes -> what a network takes, and its declaration
lists      the files of each split
folder     samples of a list of files; splits; options that all have in common
nyuv2, cityscapes, taskonomy, pascal_context    one data set each: layout, labels, what differs from the papers' codes
"""
