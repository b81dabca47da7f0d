#!/usr/bin/env bash
# The flan-t5-large rows of Table 2 of the setwise paper (arXiv:2310.09497), DL19 and DL20, held against its figures.
#
#   scripts/reproduce_table2_large.sh            # everything: a GPU and some hours
#   scripts/reproduce_table2_large.sh dl19       # one collection
set -u

status=0
for collection in ${1:-dl19 dl20}; do
  for method in pointwise.qlm pointwise.yes_no listwise.generation listwise.likelihood pairwise.heapsort \
    pairwise.bubblesort setwise.heapsort setwise.bubblesort pairwise.allpair; do
    r2llm check --expected --config "setwise-paper/$collection/flan-t5-large-$method.yaml" || status=$?
  done
done
exit "$status"
