// BERT's tokenizer (lower case, WordPiece), from the tokenizer.json of the exported folder.

const MAX_CHARACTERS = 100; // of a word that is looked up

export class Tokenizer {
  constructor(file, length) {
    this.vocabulary = new Map(Object.entries(file.model.vocab));
    this.length = length;
  }

  /** Ids and mask of a caption, cut or padded to the length: [CLS] tokens [SEP]. */
  encode(caption) {
    const id = (token) => this.vocabulary.get(token);
    const words = split(caption).flatMap((word) => this.pieces(word)).slice(0, this.length - 2);
    const tokens = [id("[CLS]"), ...words.map(id), id("[SEP]")];
    const ids = new Array(this.length).fill(id("[PAD]"));
    tokens.forEach((token, i) => { ids[i] = token; });
    return { ids, mask: ids.map((_, i) => i < tokens.length) };
  }

  /** The longest pieces of a word that the vocabulary has, from its beginning on. */
  pieces(word) {
    const letters = [...word];
    if (letters.length > MAX_CHARACTERS) return ["[UNK]"];
    const found = [];
    for (let start = 0; start < letters.length;) {
      let end = letters.length;
      const piece = () => (start ? "##" : "") + letters.slice(start, end).join("");
      while (end > start && !this.vocabulary.has(piece())) end--;
      if (end === start) return ["[UNK]"];
      found.push(piece());
      start = end;
    }
    return found;
  }
}

/** Words and punctuation marks, cleaned, in lower case and without accents. */
function split(text) {
  const clean = text.replace(/[\0\ufffd]|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Cn}\p{Co}]/gu, "").replace(/\s/gu, " ");
  const spaced = clean.replace(/[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u{20000}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/gu, " $& ");
  const plain = spaced.normalize("NFD").replace(/\p{Mn}/gu, "").toLowerCase();
  return plain.replace(/[!-/:-@[-`{-~\p{P}]/gu, " $& ").split(" ").filter((word) => word);
}
