"""What sequences say about the class of a text: the label-aware part of the choice of tokens.

Everything here sees one array, the classes of the training documents; no other labels can reach it.
"""

import numpy as np
import numpy.typing as npt

from adapt_ray.mining.encoded import EncodedCorpus
from adapt_ray.mining.kernel_occurrences import count_classes, occurrences
from adapt_ray.mining.patterns import Patterns

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def document_classes(text_ids: Int64, row_ids: Int64, labels: Int64, n_classes: int) -> Float64:
    """Return the class of each distinct text [n_texts, n_classes], texts by first appearance.

    Every text weighs 1: one whose rows differ in class is shared out among their classes. Rows that
    oversampling repeats (equal ``row_ids``) count once.
    """
    once = np.sort(np.unique(row_ids, return_index=True)[1])
    _, first, number = np.unique(text_ids[once], return_index=True, return_inverse=True)
    appearance = np.argsort(np.argsort(first))
    counts = np.zeros((first.size, n_classes))
    np.add.at(counts, (appearance[number], labels[once]), 1.0)
    return np.asarray(counts / counts.sum(1, keepdims=True), np.float64)


def classes_with(
    patterns: Patterns,
    corpus: EncodedCorpus,
    classes: Float64,
    max_gap: int | None,
    max_span: int | None = None,
) -> Float64:
    """Return, for each pattern, the documents that hold it by class [n_patterns, n_classes].

    ``classes`` [n_documents, n_classes] has rows that sum to 1. The patterns must be different and
    in lexicographic order.
    """
    if classes.shape[0] != corpus.offsets.size - 1:
        raise ValueError(
            f"classes of {classes.shape[0]} documents for a corpus of {corpus.offsets.size - 1}"
        )
    find = occurrences(
        corpus.tokens, corpus.offsets, patterns.items, patterns.offsets, max_gap, max_span
    )
    return count_classes(find, np.array(classes, np.float64))


def mutual_information(present: Float64, totals: Float64) -> Float64:
    """Return the mutual information, in nats, of the presence of each sequence and the class.

    ``present`` [n_sequences, n_classes] are the documents with a sequence, ``totals`` [n_classes]
    all documents.
    """
    documents = totals.sum()
    information = np.zeros(len(present))
    for joint in (present, totals - present):
        expected = joint.sum(1, keepdims=True) * totals / documents
        ratio = np.divide(joint, expected, out=np.ones_like(joint), where=joint > 0)
        information += (joint / documents * np.log(ratio)).sum(1)
    return information
