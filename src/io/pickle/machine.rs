//! The stack machine: implements the opcodes. Bytes, stack and memo are in [`super::stack`].

use std::ops::Range;

use super::value::{Heap, Id, Value};
use super::{Names, Parsed, numpy, pairs, torch};

/// Reads one pickle from the beginning of `bytes`. Returns its values, the result, and the number of bytes that it took.
///
/// # Errors
/// The pickle is truncated, malformed or too large, or refers to a name that is not on the list.
pub(crate) fn read(bytes: &[u8], names: Names) -> Parsed<(Heap<'_>, Id, usize)> {
    let mut machine = Machine {
        names,
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

pub(super) struct Machine<'a> {
    pub(super) names: Names,
    pub(super) heap: Heap<'a>,
    pub(super) at: usize,
    pub(super) stack: Vec<Id>,
    /// Heights of the stack at which marks were set.
    pub(super) marks: Vec<usize>,
    /// Values by number; `None` for unused numbers.
    pub(super) memo: Vec<Option<Id>>,
    pub(super) elements: usize,
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
            b'(' => {
                self.count(1)?;
                self.marks.push(self.stack.len());
            }
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
            // Python 2 wrote strings as bytes; names of tensors may be among them.
            b'T' => self.text(4)?,
            b'U' => self.text(1)?,
            b'B' => self.bytes(4)?,
            b'C' => self.bytes(1)?,
            0x8e | 0x96 => self.bytes(8)?,
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
                    _ => Err("its pickle adds items to something that is no set".into()),
                }
            }
            _ => self.step_object(opcode),
        }
    }

    /// Implements the opcodes for names and objects.
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
            // An instance by the name of its class, as Python 2 wrote it: never needed for tensors.
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                Err(self.refusal(&module, &name))
            }
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                let value = self.call(callee, arguments)?;
                self.count(value.len())?;
                self.push(value)
            }
            b'b' => {
                let (state, target) = (self.pop()?, self.top()?);
                self.build(target, state)
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = torch::storage(&self.heap, id)?;
                self.push(Value::Storage(storage))
            }
            _ => Err(format!("its pickle has the opcode {opcode:#04x}, which {} do not use", self.names.files())),
        }
    }

    fn push_global(&mut self, module: Range<usize>, name: Range<usize>) -> Parsed<()> {
        let texts = (self.heap.str(&module), self.heap.str(&name));
        match texts {
            (Some(m), Some(n)) => match self.names.global(m, n) {
                Some(global) => self.push(Value::Global(global)),
                None => Err(self.refusal(&module, &name)),
            },
            _ => Err("its pickle has a name that is no text".into()),
        }
    }

    fn refusal(&self, module: &Range<usize>, name: &Range<usize>) -> String {
        // Text from a hostile file is escaped and shortened.
        let shown = |range: &Range<usize>| -> String {
            let text = String::from_utf8_lossy(&self.heap.pickle[range.clone()]);
            text.chars().take(60).flat_map(char::escape_debug).collect()
        };
        format!(
            "it names {}.{}, and loading it in Python would run that: {}",
            shown(module),
            shown(name),
            self.names.advice()
        )
    }

    /// Returns the value of `callee(*arguments)`.
    fn call(&self, callee: Id, arguments: Id) -> Parsed<Value> {
        let &Value::Global(global) = self.heap.get(callee) else {
            return Err("its pickle calls something that is no name".into());
        };
        let Value::Tuple(arguments) = self.heap.get(arguments) else {
            return Err("its pickle calls with arguments that are no tuple".into());
        };
        match self.names {
            Names::Torch => torch::call(&self.heap, global, arguments),
            Names::Numpy => numpy::call(&self.heap, global, arguments),
        }
    }

    /// Sets the state of a value. Attributes of an OrderedDict (torch stores `_metadata` there), a parameter or a counter are ignored.
    fn build(&mut self, target: Id, state: Id) -> Parsed<()> {
        match self.heap.get(target) {
            Value::Dict(_) | Value::Tensor(_) | Value::OtherTensor(_) | Value::ElementType(_) | Value::Plain => {}
            Value::Module(None) => self.heap.values[target as usize] = Value::Module(Some(state)),
            Value::Array(None) => {
                let array = numpy::array(&self.heap, state)?;
                self.count(array.shape.len())?;
                self.heap.values[target as usize] = Value::Array(Some(array));
            }
            _ => return Err("its pickle sets attributes of something that has none".into()),
        }
        Ok(())
    }
}
