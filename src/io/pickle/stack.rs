//! The state of the machine: the bytes of the pickle, the stack with its marks, and the memo.

use std::ops::Range;

use super::machine::Machine;
use super::value::{Id, Value};
use super::{MAX_VALUES, Parsed, pairs};

impl Machine<'_> {
    // --- bytes ---

    pub(super) fn take(&mut self, len: usize) -> Parsed<Range<usize>> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.heap.pickle.len());
        let end = end.ok_or_else(|| "its pickle is cut off".to_string())?;
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    pub(super) fn byte(&mut self) -> Parsed<u8> {
        let at = self.take(1)?.start;
        Ok(self.heap.pickle[at])
    }

    /// Reads an unsigned little-endian number of `width` bytes.
    pub(super) fn number(&mut self, width: usize) -> Parsed<u64> {
        let range = self.take(width)?;
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(&self.heap.pickle[range]);
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads a length of `width` bytes, then returns the range of that many bytes.
    pub(super) fn counted(&mut self, width: usize) -> Parsed<Range<usize>> {
        let len = self.number(width)?;
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    pub(super) fn line(&mut self) -> Parsed<Range<usize>> {
        let rest = &self.heap.pickle[self.at..];
        let len = rest.iter().position(|&b| b == b'\n').ok_or("its pickle is cut off")?;
        let range = self.take(len)?;
        self.take(1)?;
        Ok(range)
    }

    // --- values ---

    pub(super) fn push(&mut self, value: Value) -> Parsed<()> {
        self.count(1)?;
        self.heap.values.push(value);
        self.push_id((self.heap.values.len() - 1) as Id)
    }

    pub(super) fn push_id(&mut self, id: Id) -> Parsed<()> {
        self.count(1)?;
        self.stack.push(id);
        Ok(())
    }

    pub(super) fn count(&mut self, more: usize) -> Parsed<()> {
        self.elements += more;
        if self.elements > MAX_VALUES {
            return Err(format!(
                "its pickle has more than {MAX_VALUES} values, far more than {} need",
                self.names.files()
            ));
        }
        Ok(())
    }

    /// Returns the height of the stack below which no value may be popped: that of the last mark.
    pub(super) fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn pop(&mut self) -> Parsed<Id> {
        if self.stack.len() <= self.floor() {
            return Err("its pickle takes more from the stack than there is".into());
        }
        Ok(self.stack.pop().expect("higher than its floor"))
    }

    pub(super) fn top(&self) -> Parsed<Id> {
        let top = self.stack.last().filter(|_| self.stack.len() > self.floor());
        top.copied().ok_or_else(|| "its pickle takes more from the stack than there is".into())
    }

    pub(super) fn above_mark(&mut self) -> Parsed<Vec<Id>> {
        let mark = self.marks.pop().ok_or("its pickle has no mark where one is needed")?;
        Ok(self.stack.split_off(mark))
    }

    pub(super) fn put(&mut self, width: usize) -> Parsed<()> {
        let slot = self.number(width)?;
        self.memoize(slot as usize)
    }

    pub(super) fn memoize(&mut self, slot: usize) -> Parsed<()> {
        if slot >= MAX_VALUES {
            return Err(format!(
                "its pickle stores a value under number {slot}, far more than {} need",
                self.names.files()
            ));
        }
        let top = self.top()?;
        if slot >= self.memo.len() {
            self.memo.resize(slot + 1, None);
        }
        self.memo[slot] = Some(top);
        Ok(())
    }

    pub(super) fn get(&mut self, width: usize) -> Parsed<()> {
        let slot = self.number(width)? as usize;
        let id = self.memo.get(slot).copied().flatten();
        self.push_id(id.ok_or_else(|| format!("its pickle reads value {slot}, which it never stored"))?)
    }

    pub(super) fn push_number(&mut self, width: usize) -> Parsed<()> {
        let n = self.number(width)?;
        self.push(Value::Int(n as i64))
    }

    pub(super) fn long(&mut self, width: usize) -> Parsed<()> {
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

    pub(super) fn text(&mut self, width: usize) -> Parsed<()> {
        let range = self.counted(width)?;
        // Python 2's strings may be any bytes.
        let valid = std::str::from_utf8(&self.heap.pickle[range.clone()]).is_ok();
        self.push(if valid { Value::Text(range) } else { Value::Bytes(range) })
    }

    pub(super) fn bytes(&mut self, width: usize) -> Parsed<()> {
        let range = self.counted(width)?;
        self.push(Value::Bytes(range))
    }

    pub(super) fn tuple(&mut self, len: usize) -> Parsed<()> {
        let mut items = (0..len).map(|_| self.pop()).collect::<Parsed<Vec<Id>>>()?;
        items.reverse();
        self.push(Value::Tuple(items))
    }

    pub(super) fn append(&mut self, items: &[Id]) -> Parsed<()> {
        let list = self.top()?;
        match &mut self.heap.values[list as usize] {
            Value::List(list) => list.extend(items),
            Value::Plain => {}
            _ => return Err("its pickle appends to something that is no list".into()),
        }
        Ok(())
    }

    pub(super) fn set_items(&mut self, items: &[Id]) -> Parsed<()> {
        let pairs = pairs(items)?;
        let dict = self.top()?;
        match &mut self.heap.values[dict as usize] {
            Value::Dict(dict) => dict.extend(pairs),
            Value::Plain => {}
            _ => return Err("its pickle sets items of something that is no dictionary".into()),
        }
        Ok(())
    }
}
