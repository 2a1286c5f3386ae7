//! Reads the kernels' signatures, `extern "C" __global__ void __launch_bounds__(N) name(parameters) {`, and the struct that some of them
//! take by value.

use std::fs;
use std::path::Path;

/// A kernel as its source declares it.
pub struct Kernel {
    pub name: String,
    /// Threads of a block.
    pub threads: String,
    pub parameters: Vec<Parameter>,
}

/// A struct whose fields are all of type `int`.
pub struct IntStruct {
    pub name: String,
    pub fields: Vec<String>,
}

/// A parameter of a kernel. `type_` is its type, or for a pointer what it points to, without `const` and `__restrict__`.
pub struct Parameter {
    pub name: String,
    pub type_: String,
    pub pointer: bool,
    pub is_const: bool,
}

/// Returns all kernels of `folder`, file by file in the order of the files' names.
pub fn read(folder: &Path) -> Vec<Kernel> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    files.sort();
    let mut kernels = Vec::new();
    for path in files {
        let source = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let code: Vec<&str> = source.lines().map(|line| line.split("//").next().unwrap_or(line)).collect();
        let code = code.join(" ");
        for text in code.split("extern \"C\" __global__ void").skip(1) {
            let head = text.split('{').next().unwrap_or(text);
            let kernel = parse(head);
            kernels.push(kernel.unwrap_or_else(|| panic!("{}: not a kernel's signature: {head}", path.display())));
        }
    }
    kernels
}

/// Returns the table of kernels that the emulator's sources include as `table.inc`.
#[allow(dead_code, reason = "a build without the emulator needs no table")]
pub fn table(kernels: &[Kernel]) -> String {
    let line = |Kernel { name, threads, parameters }: &Kernel| {
        let parameters: Vec<String> = parameters.iter().map(Parameter::declaration).collect();
        format!("KERNEL({name}, {threads}, ({}))\n", parameters.join(", "))
    };
    kernels.iter().map(line).collect()
}

/// Reads the one struct of `header`.
pub fn read_struct(header: &Path) -> IntStruct {
    let text = fs::read_to_string(header).unwrap_or_else(|error| panic!("{}: {error}", header.display()));
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or(line)).collect();
    let parse = || {
        let (name, rest) = code.split_once("struct ")?.1.split_once('{')?;
        let declarations = rest.split_once('}')?.0.split(';').map(str::trim).filter(|text| !text.is_empty());
        let names = declarations.map(|text| text.strip_prefix("int ")).collect::<Option<Vec<_>>>()?;
        let fields = names.iter().flat_map(|names| names.split(',')).map(|name| name.trim().to_string()).collect();
        Some(IntStruct { name: name.trim().to_string(), fields })
    };
    parse().unwrap_or_else(|| panic!("{} has no struct of ints", header.display()))
}

/// Parses a signature like `__launch_bounds__(256, 2) name(const float* x, int n)`.
fn parse(head: &str) -> Option<Kernel> {
    let (bounds, rest) = head.trim().strip_prefix("__launch_bounds__(")?.split_once(')')?;
    let (name, parameters) = rest.split_once('(')?;
    let parameters = parameters.trim().strip_suffix(')')?;
    Some(Kernel {
        name: name.trim().into(),
        threads: bounds.split(',').next()?.trim().into(),
        parameters: parameters.split(',').map(parameter).collect::<Option<_>>()?,
    })
}

fn parameter(text: &str) -> Option<Parameter> {
    let text = text.replace("__restrict__", " ").replace('*', " * ");
    let mut words: Vec<&str> = text.split_whitespace().collect();
    let name = words.pop()?.to_string();
    let (count, consts) = (words.len(), words.iter().filter(|word| **word == "const").count());
    words.retain(|word| *word != "const" && *word != "*");
    let pointer = count - consts - words.len();
    (pointer <= 1).then(|| Parameter { name, type_: words.join(" "), pointer: pointer == 1, is_const: consts == 1 })
}

impl Parameter {
    /// Returns the declaration in C++.
    pub fn declaration(&self) -> String {
        let Parameter { name, type_, pointer, is_const } = self;
        format!("{}{type_}{} {name}", if *is_const { "const " } else { "" }, if *pointer { "*" } else { "" })
    }
}
