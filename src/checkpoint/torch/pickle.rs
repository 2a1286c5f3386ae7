//! Python's pickles, read as data: a stack machine that knows the opcodes of plain data and a short list of names
//! ([`Global`]). Nothing is ever called; a pickle that names anything else is refused.
//!
//! Bounds: every opcode makes at most one value and reads no more bytes than there are; values and the elements that are put
//! into lists and dictionaries are counted up to [`MAX_VALUES`]. So a pickle takes at most some 300 MiB, and only one that
//! is itself of many megabytes takes much.
//!
//! Source: the opcode comments of CPython's `Lib/pickletools.py`.

use std::ops::Range;

use super::rebuild;
use super::value::{Global, Heap, Id, Value};

/// Values in a pickle, and their uses. A ResNet-101 with its optimiser has some hundred thousand.
const MAX_VALUES: usize = 1 << 21;

type Parsed<T> = Result<T, String>;

/// Reads one pickle from the beginning of `bytes`: its values, the last one, and the number of bytes it took.
///
/// # Errors
/// It is cut off, malformed, too large, or names what is not on the list.
pub fn read(bytes: &[u8]) -> Parsed<(Heap<'_>, Id, usize)> {
    let mut machine = Machine {
        heap: Heap { pickle: bytes, values: Vec::new() },
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        elements: 0,
    };
    loop {
        let opcode = machine.byte()?;
        if opcode == b'.' {
            let root = machine.pop()?;
            return Ok((machine.heap, root, machine.at));
        }
        machine.step(opcode)?;
    }
}

struct Machine<'a> {
    heap: Heap<'a>,
    at: usize,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    /// By number; unused numbers hold `None`.
    memo: Vec<Option<Id>>,
    elements: usize,
}

impl Machine<'_> {
    fn step(&mut self, opcode: u8) -> Parsed<()> {
        match opcode {
            // Protocol and frames.
            0x80 => {
                let protocol = self.byte()?;
                if protocol > 5 {
                    return Err(format!("its pickle is of protocol {protocol}, which is not known"));
                }
            }
            0x95 => {
                self.take(8)?;
            }
            // The stack and the memo.
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.above_mark()?;
            }
            b'2' => {
                let top = self.top()?;
                self.push_id(top)?;
            }
            b'q' => self.put(1)?,
            b'r' => self.put(4)?,
            0x94 => self.memoize(self.memo.len())?,
            b'h' => self.get(1)?,
            b'j' => self.get(4)?,
            // Plain values.
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'J' => {
                let n = self.number(4)? as u32 as i32;
                self.push(Value::Int(n.into()))?;
            }
            b'K' => self.push_number(1)?,
            b'M' => self.push_number(2)?,
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'G' => {
                self.take(8)?;
                self.push(Value::Plain)?;
            }
            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            // Python 2 wrote its strings as bytes; names of tensors may be among them.
            b'T' => self.byte_string(4)?,
            b'U' => self.byte_string(1)?,
            b'B' => self.plain_bytes(4)?,
            b'C' => self.plain_bytes(1)?,
            0x8e | 0x96 => self.plain_bytes(8)?,
            _ => return self.step_container(opcode),
        }
        Ok(())
    }

    fn step_container(&mut self, opcode: u8) -> Parsed<()> {
        match opcode {
            b']' => self.push(Value::List(Vec::new())),
            b'l' => {
                let items = self.above_mark()?;
                self.push(Value::List(items))
            }
            b')' => self.push(Value::Tuple(Vec::new())),
            b't' => {
                let items = self.above_mark()?;
                self.push(Value::Tuple(items))
            }
            0x85 => self.tuple(1),
            0x86 => self.tuple(2),
            0x87 => self.tuple(3),
            b'}' => self.push(Value::Dict(Vec::new())),
            b'd' => {
                let items = self.above_mark()?;
                let pairs = pairs(&items)?;
                self.push(Value::Dict(pairs))
            }
            0x8f => self.push(Value::Plain),
            0x91 => {
                self.above_mark()?;
                self.push(Value::Plain)
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])
            }
            b'e' => {
                let items = self.above_mark()?;
                self.append(&items)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])
            }
            b'u' => {
                let items = self.above_mark()?;
                self.set_items(&items)
            }
            0x90 => {
                self.above_mark()?;
                match self.heap.get(self.top()?) {
                    Value::Plain => Ok(()),
                    _ => Err("its pickle adds items to what is no set".into()),
                }
            }
            _ => self.step_object(opcode),
        }
    }

    /// Names, and what is made with them.
    fn step_object(&mut self, opcode: u8) -> Parsed<()> {
        match opcode {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push_global(module, name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let range = |id| match self.heap.get(id) {
                    Value::Text(range) => Ok(range.clone()),
                    _ => Err("its pickle has a name that is no text".to_string()),
                };
                let (module, name) = (range(module)?, range(name)?);
                self.push_global(module, name)
            }
            // An instance by its class's name, as Python 2 wrote it: never needed for tensors.
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                Err(self.refusal(&module, &name))
            }
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                let value = rebuild::call(&self.heap, callee, arguments)?;
                self.count(value.len())?;
                self.push(value)
            }
            // The attributes of an OrderedDict (torch stores `_metadata` there) are of no use here.
            b'b' => {
                self.pop()?;
                match self.heap.get(self.top()?) {
                    Value::Dict(_) | Value::Tensor(_) => Ok(()),
                    _ => Err("its pickle sets attributes of what is neither a dictionary nor a tensor".into()),
                }
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = rebuild::storage(&self.heap, id)?;
                self.push(Value::Storage(storage))
            }
            _ => Err(format!("its pickle has the opcode {opcode:#04x}, which torch's checkpoints do not use")),
        }
    }

    // --- bytes ---

    fn take(&mut self, len: usize) -> Parsed<Range<usize>> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.heap.pickle.len());
        let end = end.ok_or_else(|| "its pickle is cut off".to_string())?;
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    fn byte(&mut self) -> Parsed<u8> {
        let at = self.take(1)?.start;
        Ok(self.heap.pickle[at])
    }

    /// An unsigned little-endian number of `width` bytes.
    fn number(&mut self, width: usize) -> Parsed<u64> {
        let range = self.take(width)?;
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(&self.heap.pickle[range]);
        Ok(u64::from_le_bytes(bytes))
    }

    /// What follows a length of `width` bytes.
    fn counted(&mut self, width: usize) -> Parsed<Range<usize>> {
        let len = self.number(width)?;
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Parsed<Range<usize>> {
        let rest = &self.heap.pickle[self.at..];
        let len = rest.iter().position(|&b| b == b'\n').ok_or("its pickle is cut off")?;
        let range = self.take(len)?;
        self.take(1)?;
        Ok(range)
    }

    // --- values ---

    fn push(&mut self, value: Value) -> Parsed<()> {
        self.count(1)?;
        self.heap.values.push(value);
        self.push_id((self.heap.values.len() - 1) as Id)
    }

    fn push_id(&mut self, id: Id) -> Parsed<()> {
        self.count(1)?;
        self.stack.push(id);
        Ok(())
    }

    fn count(&mut self, more: usize) -> Parsed<()> {
        self.elements += more;
        if self.elements > MAX_VALUES {
            return Err(format!("its pickle has more than {MAX_VALUES} values, far more than weights need"));
        }
        Ok(())
    }

    /// The lowest height that the stack may be popped to.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Parsed<Id> {
        if self.stack.len() <= self.floor() {
            return Err("its pickle takes more from the stack than there is".into());
        }
        Ok(self.stack.pop().expect("higher than its floor"))
    }

    fn top(&self) -> Parsed<Id> {
        let top = self.stack.last().filter(|_| self.stack.len() > self.floor());
        top.copied().ok_or_else(|| "its pickle takes more from the stack than there is".into())
    }

    fn above_mark(&mut self) -> Parsed<Vec<Id>> {
        let mark = self.marks.pop().ok_or("its pickle has no mark where one is needed")?;
        Ok(self.stack.split_off(mark))
    }

    fn put(&mut self, width: usize) -> Parsed<()> {
        let slot = self.number(width)?;
        self.memoize(slot as usize)
    }

    fn memoize(&mut self, slot: usize) -> Parsed<()> {
        if slot >= MAX_VALUES {
            return Err(format!("its pickle keeps a value under number {slot}, far more than weights need"));
        }
        let top = self.top()?;
        if slot >= self.memo.len() {
            self.memo.resize(slot + 1, None);
        }
        self.memo[slot] = Some(top);
        Ok(())
    }

    fn get(&mut self, width: usize) -> Parsed<()> {
        let slot = self.number(width)? as usize;
        let id = self.memo.get(slot).copied().flatten();
        self.push_id(id.ok_or_else(|| format!("its pickle asks for value {slot}, which it never kept"))?)
    }

    fn push_number(&mut self, width: usize) -> Parsed<()> {
        let n = self.number(width)?;
        self.push(Value::Int(n as i64))
    }

    fn long(&mut self, width: usize) -> Parsed<()> {
        let range = self.counted(width)?;
        let bytes = &self.heap.pickle[range.clone()];
        if bytes.len() > 8 {
            return self.push(Value::BigInt(range));
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    fn text(&mut self, width: usize) -> Parsed<()> {
        let range = self.counted(width)?;
        // Lone surrogates, which pickles may hold, are no text that a name needs.
        let valid = std::str::from_utf8(&self.heap.pickle[range.clone()]).is_ok();
        self.push(if valid { Value::Text(range) } else { Value::Plain })
    }

    fn byte_string(&mut self, width: usize) -> Parsed<()> {
        self.text(width)
    }

    fn plain_bytes(&mut self, width: usize) -> Parsed<()> {
        self.counted(width)?;
        self.push(Value::Plain)
    }

    fn tuple(&mut self, len: usize) -> Parsed<()> {
        let mut items = (0..len).map(|_| self.pop()).collect::<Parsed<Vec<Id>>>()?;
        items.reverse();
        self.push(Value::Tuple(items))
    }

    fn append(&mut self, items: &[Id]) -> Parsed<()> {
        let list = self.top()?;
        match &mut self.heap.values[list as usize] {
            Value::List(list) => list.extend(items),
            _ => return Err("its pickle appends to what is no list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Parsed<()> {
        let pairs = pairs(items)?;
        let dict = self.top()?;
        match &mut self.heap.values[dict as usize] {
            Value::Dict(dict) => dict.extend(pairs),
            _ => return Err("its pickle sets items of what is no dictionary".into()),
        }
        Ok(())
    }

    fn push_global(&mut self, module: Range<usize>, name: Range<usize>) -> Parsed<()> {
        let texts = (self.heap.str(&module), self.heap.str(&name));
        match texts {
            (Some(m), Some(n)) => match Global::named(m, n) {
                Some(global) => self.push(Value::Global(global)),
                None => Err(self.refusal(&module, &name)),
            },
            _ => Err("its pickle has a name that is no text".into()),
        }
    }

    fn refusal(&self, module: &Range<usize>, name: &Range<usize>) -> String {
        // What comes from a hostile file is shown escaped and cut short.
        let shown = |range: &Range<usize>| -> String {
            let text = String::from_utf8_lossy(&self.heap.pickle[range.clone()]);
            text.chars().take(60).flat_map(char::escape_debug).collect()
        };
        format!(
            "it names {}.{}, and loading it in Python would run that: only tensors in plain containers are read; save the \
             model's state_dict() alone",
            shown(module),
            shown(name)
        )
    }
}

fn pairs(items: &[Id]) -> Parsed<Vec<(Id, Id)>> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("its pickle has a key without a value".into());
    }
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}
