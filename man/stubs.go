package man

// stub is the script that makes a shell ask the program for completions. It
// knows nothing of verbs and flags, so an installed one never goes stale.
func stub(shell string) (string, bool) {
	switch shell {
	case "bash":
		return bashStub, true
	case "zsh":
		return zshStub, true
	case "fish":
		return fishStub, true
	}
	return "", false
}

// The words are taken from COMP_LINE: bash splits COMP_WORDS at ':' and '=',
// which image names and flags contain. It also replaces only what follows the
// last of them, so that much is cut off the answers.
const bashStub = `# bash completion for PROGRAM
_PROGRAM() {
    local line=${COMP_LINE:0:COMP_POINT} word answer cut act=
    local -a words paths
    read -ra words <<<"$line"
    [[ $line == *[[:blank:]] ]] && words+=("")
    word=${words[${#words[@]}-1]}
    cut=${word%"${word##*[:=]}"}
    COMPREPLY=()
    while IFS=$'\t' read -r answer _; do
        case $answer in
        :file) act=-f ;;
        :dir) act=-d ;;
        *) COMPREPLY+=("${answer#"$cut"}") ;;
        esac
    done < <("${words[0]}" __complete -- "${words[@]:1}" 2>/dev/null)
    [[ $act ]] && mapfile -t paths < <(compgen $act -- "${word#"$cut"}")
    if ((${#COMPREPLY[@]} == 0)); then
        COMPREPLY=("${paths[@]}")
        [[ $act ]] && compopt -o filenames
    elif ((${#paths[@]})); then # -o filenames would quote the colon of a name
        mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(printf '%q\n' "${paths[@]}")
    fi
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[:=] ]] && compopt -o nospace
    return 0
}
complete -F _PROGRAM PROGRAM
`

const zshStub = `#compdef PROGRAM
_PROGRAM() {
    local answer word
    local -a plain open
    for answer in "${(@f)$(${words[1]} __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        case $answer in
        '') ;;
        :file) _files ;;
        :dir) _files -/ ;;
        *) word=${answer%%$'\t'*}
           if [[ $answer == *$'\t'* ]]; then plain+=("${word//:/\\:}:${answer#*$'\t'}")
           elif [[ $word == *[:=] ]]; then open+=("$word")
           else plain+=("${word//:/\\:}")
           fi ;;
        esac
    done
    (( $#plain )) && _describe -V PROGRAM plain
    (( $#open )) && compadd -S '' -a open
    return 0
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _PROGRAM "$@"
else
    compdef _PROGRAM PROGRAM
fi
`

const fishStub = `# fish completion for PROGRAM
function __PROGRAM_complete
    set -l words (commandline -opc) (commandline -ct)
    for answer in ($words[1] __complete -- $words[2..-1] 2>/dev/null)
        switch $answer
            case :file
                __fish_complete_path (commandline -ct)
            case :dir
                __fish_complete_directories (commandline -ct)
            case '*'
                echo $answer
        end
    end
end
complete -c PROGRAM -f -a '(__PROGRAM_complete)'
`
